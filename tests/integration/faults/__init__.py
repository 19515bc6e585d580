# SPDX-License-Identifier: Apache-2.0
"""What can break is broken here, on real servers under load, and the promises are checked afterwards."""
