# SPDX-License-Identifier: Apache-2.0
"""The process of payments."""

from functools import partial

from orderflow.messaging.service import Handler
from orderflow.runtime import ProcessDeclaration, Runtime


def build_payments(runtime: Runtime) -> None:
    """A consumer that records charges, and a runner that calls the provider."""
    from orderflow.services.payments.charge_retention import recent_events, retired_charges
    from orderflow.services.payments.effects import ChargeEffect, count_charges
    from orderflow.services.payments.handlers import PaymentRequests
    from orderflow.services.payments.http_provider import HttpPaymentProvider
    from orderflow.services.payments.late_charges import INTERVAL_SECONDS, decline_late

    settings, days = runtime.settings, runtime.settings.retention_days
    provider = HttpPaymentProvider(
        settings.payment_url,
        timeout_seconds=settings.payment_timeout_seconds,
        instrumentation=runtime.instrumentation,
        clock=runtime.clock,
    )
    charges = runtime.effect_runner(
        "charge",
        ChargeEffect(provider),
        concurrency=settings.payment_concurrency,
        lease_seconds=settings.payment_timeout_seconds * 2 + 5,
    )

    def handler() -> Handler:
        requests = PaymentRequests(charges.wake, instrumentation=runtime.instrumentation)
        return recent_events(requests, retention_days=days)

    runtime.add(
        *runtime.consumers("payment_requests", handler),
        runtime.periodic(
            "decline late charges", INTERVAL_SECONDS, partial(decline_late, instrumentation=runtime.instrumentation)
        ),
        runtime.periodic("count charges", 5, partial(count_charges, instrumentation=runtime.instrumentation)),
    )
    if days:
        runtime.add(runtime.pruner("prune charges", retired_charges(days=days)))
    runtime.add(charges)
    runtime.add(runtime.relay())


PROCESSES = {
    "payments": ProcessDeclaration(
        build=build_payments,
        areas=("consuming", "publishing", "payments", "calling"),
        needs=frozenset({"amqp", "database", "payment"}),
    ),
}
