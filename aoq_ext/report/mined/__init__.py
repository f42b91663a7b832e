"""The page about one mining: plain arrays in, one self-contained HTML file out."""

from aoq_ext.report.mined.page import render_mining_report, write_mining_report

__all__ = ["render_mining_report", "write_mining_report"]
