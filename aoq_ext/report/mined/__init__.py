"""The page about one mining: plain arrays in, one self-contained HTML file out."""

from aoq_ext.report.mined.data import Lists, MinedReportData
from aoq_ext.report.mined.page import render_mining_report, write_mining_report

__all__ = ["Lists", "MinedReportData", "render_mining_report", "write_mining_report"]
