"""Is a data set on the disk what its format promises? Every finding says what was expected, what came and the cure."""

from aoq_ext.data.verify.check import KINDS, detect_kind, verify
from aoq_ext.data.verify.findings import Finding, Progress, SplitSummary, VerifyReport

__all__ = ["KINDS", "Finding", "Progress", "SplitSummary", "VerifyReport", "detect_kind", "verify"]
