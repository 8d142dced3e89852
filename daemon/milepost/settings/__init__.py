"""Milepost's configuration: config.yaml as frozen values.

yaml         the file as plain values with their lines, with environment variables substituted
secrets      secrets from files; where each comes from
model        every key, its default and bounds      (types)
load         all of that in order, the rules between sections, and the error messages
"""
