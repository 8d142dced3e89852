"""The JSON API: a file for each resource, whose operations are declared once, for routes and description alike."""
