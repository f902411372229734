"""Contracts: readable rule files, checked before they run, and what evaluates them."""
