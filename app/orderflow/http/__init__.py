# SPDX-License-Identifier: Apache-2.0
"""What the HTTP APIs share: authentication, problem documents, OpenAPI, database access, and the server."""
