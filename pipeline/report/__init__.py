"""The report of a run: one static page with pictures, for disks and object stores alike; no server, no network.

:mod:`pipeline.report.survey` looks at all records once, :mod:`pipeline.report.choose` decides meanwhile which of them
get pictures, :mod:`pipeline.report.thumbnails` draws these, :mod:`pipeline.report.page` puts the page together.
"""

from pipeline.report.page import write_report

__all__ = ["write_report"]
