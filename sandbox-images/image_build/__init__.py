"""How sandbox images are made: the Debian underneath, the Python wheels, the inputs' digests, the engine's part.

Runs on the host, before any server; imports `orchestrator.sandboxes.guest_bundle` and nothing else of the house.
"""
