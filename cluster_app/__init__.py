"""The cluster's programs: journals, election, gRPC, settings."""
