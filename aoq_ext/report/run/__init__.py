"""The page about two rounds of training and their control: plain data in, one self-contained HTML file out."""

from aoq_ext.report.run.data import Answer, Item, MinedImage, Panel, Query, ReportData, Round, Split
from aoq_ext.report.run.page import render_report, write_report

__all__ = [
    "Answer",
    "Item",
    "MinedImage",
    "Panel",
    "Query",
    "ReportData",
    "Round",
    "Split",
    "render_report",
    "write_report",
]
