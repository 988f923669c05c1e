"""A finished dataset for people: card, contact sheet, rejects, leak test."""
