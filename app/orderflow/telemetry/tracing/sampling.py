# SPDX-License-Identifier: Apache-2.0
"""The sampling decision at the edge, by the standard variables ``OTEL_TRACES_SAMPLER`` and ``…_ARG``."""

import logging
from collections.abc import Mapping

from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    TraceIdRatioBased,
)

log = logging.getLogger(__name__)

EVERYTHING_BELOW = ParentBased(ALWAYS_ON)
"""For spans inside: nobody begins one unless the decision at the edge, or of who began the work, was yes."""


def edge_sampler(environ: Mapping[str, str]) -> Sampler:
    """The sampler for requests that come in; a name or ratio that makes no sense is logged and counts as not given."""
    name = environ.get("OTEL_TRACES_SAMPLER", "") or "parentbased_always_on"
    samplers: dict[str, Sampler] = {
        "always_on": ALWAYS_ON,
        "always_off": ALWAYS_OFF,
        "parentbased_always_on": ParentBased(ALWAYS_ON),
        "parentbased_always_off": ParentBased(ALWAYS_OFF),
    }
    if name in samplers:
        return samplers[name]
    if name == "traceidratio":
        return TraceIdRatioBased(_ratio(environ))
    if name != "parentbased_traceidratio":
        log.warning("sampler.unknown", extra={"sampler": name})
        return ParentBased(ALWAYS_ON)
    return ParentBasedTraceIdRatio(_ratio(environ))


def is_off(environ: Mapping[str, str]) -> bool:
    """True when the sampler says that no trace may begin here."""
    return environ.get("OTEL_TRACES_SAMPLER", "") in {"always_off", "parentbased_always_off"}


def _ratio(environ: Mapping[str, str]) -> float:
    text = environ.get("OTEL_TRACES_SAMPLER_ARG", "")
    try:
        ratio = float(text) if text else 1.0
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        log.warning("sampler.ratio_invalid", extra={"ratio": text})
        return 1.0
    return ratio
