"""For the tests of parts, ours and third-party: conformance suites, verified fakes, real servers, fault injectors."""
