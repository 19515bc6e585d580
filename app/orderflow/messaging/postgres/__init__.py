# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: the only package that imports psycopg."""
