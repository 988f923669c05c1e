"""The ground floor: what every stage agrees on. Imports nothing above it."""
