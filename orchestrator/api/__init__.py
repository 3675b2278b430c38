"""The HTTP surface: routes per resource, authentication, the error table, streams. The only place that knows
FastAPI.
"""
