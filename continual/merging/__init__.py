"""Merge rules: several finished adapters become one."""
