"""Results as one HTML file that needs no network: the page, its tables and its charts."""
