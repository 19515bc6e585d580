# SPDX-License-Identifier: Apache-2.0
"""What several tests share: parts of the product put together on real servers, and scripted stand-ins."""
