"""`report.html` of a distilled run folder: one file that shows what was distilled, from what, and what it is worth."""

from __future__ import annotations

from decoct.report.page import write_report
from decoct.report.sources import Sources, collect_sources

__all__ = ["Sources", "collect_sources", "write_report"]
