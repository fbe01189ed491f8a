"""What is deployed, in real containers, beside a real proxy and a real Prometheus."""
