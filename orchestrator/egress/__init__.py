"""The way out: connections to where policy lets them go, and nowhere else. Imports `policy` and what is below it."""
