"""How an inbox keeps its promises: sentinel, slots, acceptance, receipts. `lading.inbox` is the way in."""
