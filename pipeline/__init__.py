"""The distributed labelling system on Ray Data: sources, stages, sink, runs and reports."""
