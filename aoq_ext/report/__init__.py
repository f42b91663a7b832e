"""The demo's HTML report: plain data in, one self-contained page out."""

from aoq_ext.report.data import Answer, Item, MinedImage, Query, ReportData, Round, Split
from aoq_ext.report.page import render_report, write_report

__all__ = [
    "Answer",
    "Item",
    "MinedImage",
    "Query",
    "ReportData",
    "Round",
    "Split",
    "render_report",
    "write_report",
]
