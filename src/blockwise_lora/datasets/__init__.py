"""Kedro datasets: how the library's values are kept on disk, one class a module."""
