"""An outage and the drain after it: our delivery beside stock Celery, on one machine, in one run. See `make bench`."""

STOCK_QUEUE = "stock"
STOCK_TASK = "bench.stock.deliver"
