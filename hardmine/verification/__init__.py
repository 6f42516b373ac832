"""Checks of the ops against their references in any training loop: :class:`hardmine.verify`."""

from hardmine.verification.verify import OpReport, Report, VerificationError, verify

__all__ = ["OpReport", "Report", "VerificationError", "verify"]
