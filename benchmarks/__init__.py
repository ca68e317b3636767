"""Speed on this machine; what was measured, where and how stands in RESULTS.md."""
