"""CarbonBench as published: its records, samples, loss and ways of training, beside which ours are measured."""
