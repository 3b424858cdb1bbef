"""Kedro pipelines: thin nodes over the library, one package a pipeline."""
