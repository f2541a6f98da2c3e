"""Below the endpoints: sessions, connections and tables."""
