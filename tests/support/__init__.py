"""What tests share: waiting, finding third-party programs, servers, simulators."""
