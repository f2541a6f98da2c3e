"""The steps that make the tables, and alter them in later versions."""
