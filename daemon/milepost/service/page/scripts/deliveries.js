// Deliveries: how far each receiver has confirmed what changed. They are shown where the configuration names any.

const DELIVERY_STATES = {
  up_to_date: { words: "Up to date", tone: "done" },
  delivering: { words: "Delivering", tone: "working" },
  failing: { words: "Failing", tone: "warning" },
  paused: { words: "Paused", tone: "held" },
};

const deliveryCards = new Map(); // by destination

function showDeliveries(deliveries) {
  byId("deliveries").hidden = deliveries.length === 0;
  const names = new Set(deliveries.map(({ destination }) => destination));
  for (const name of deliveryCards.keys()) if (!names.has(name)) deliveryCards.delete(name);
  arrange(byId("deliveries-list"), deliveries.map((delivery) => {
    const card = deliveryCards.get(delivery.destination) ?? fromTemplate("a-delivery");
    deliveryCards.set(delivery.destination, card);
    showDelivery(card, delivery);
    return card;
  }));
}

function showDelivery(card, delivery) {
  const { words, tone } = DELIVERY_STATES[delivery.state] ?? UNKNOWN;
  setTone(card, tone);
  setText(card.querySelector("h3"), delivery.destination);
  setText(card.querySelector(".state"), words);
  const attempts = counted(delivery.failures, "attempt");
  const reason = delivery.problem === null ? "" : `${capitalized(delivery.problem)}: ${attempts} since ${clock(delivery.failing_since)}.`;
  setText(card.querySelector(".reason"), reason);
  showFacts(card.querySelector(".facts"), [
    ["Behind", delivery.lag_seconds > 0 ? lasting(delivery.lag_seconds) : "no"],
    ["Last delivered", ago(delivery.delivered_at), delivery.delivered_at === null ? "" : inFull(delivery.delivered_at)],
  ]);
}
