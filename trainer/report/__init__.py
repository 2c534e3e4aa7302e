"""What was measured, for people: tables for the terminal and in Markdown, and the page that shows all evidence."""

from trainer.report.tables import guard_table, markdown, percent, place_table, remarks, terminal_tables, unseen_table

__all__ = ["guard_table", "markdown", "percent", "place_table", "remarks", "terminal_tables", "unseen_table"]
