# SPDX-License-Identifier: Apache-2.0
"""What the HTTP APIs share: keys, problems, the page of documentation, and the server itself."""
