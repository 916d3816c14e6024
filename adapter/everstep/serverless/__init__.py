"""Everstep on a function platform: what comes in as Lambda events, and goes out as Lambda answers.

Imported by every cold start of the worker. It imports Powertools, and nothing of the web, of agents or of SQLite.
"""
