"""Speed, accuracy and memory of skode beside its peers; ``python -m tests.benchmarks`` runs all."""
