"""Event traces as files: JSON lines (`jsonl`), and logs for the checker casemate (`casemate`)."""
