"""The system on a real CPython for Windows, run by Wine on Linux."""
