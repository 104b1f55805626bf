"""Mailtrail: a self-hosted server that tracks opens and clicks of e-mails, and records only what the settings allow."""

__version__ = "0.1.0"
