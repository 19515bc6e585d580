# SPDX-License-Identifier: Apache-2.0
"""`make demo`: a short sale on real servers, and the proof."""
