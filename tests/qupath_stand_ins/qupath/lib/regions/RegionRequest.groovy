package qupath.lib.regions

import qupath.lib.images.servers.ImageServer

class RegionRequest {
    ImageServer server
    double downsample

    static RegionRequest createInstance(ImageServer server, double downsample) {
        new RegionRequest(server: server, downsample: downsample)
    }
}
