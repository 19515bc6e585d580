# SPDX-License-Identifier: Apache-2.0
"""``make resilience``: what the shop sells while it is overloaded and while parts of it fail."""
