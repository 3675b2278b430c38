"""Tools: what a model can do in its environment. One door, `mediator.py`; nothing else may call a tool."""
