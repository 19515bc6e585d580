# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL: the only room that imports psycopg."""
