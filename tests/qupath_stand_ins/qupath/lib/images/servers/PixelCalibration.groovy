package qupath.lib.images.servers

class PixelCalibration {
    Double mpp

    boolean hasPixelSizeMicrons() { mpp != null }

    double getAveragedPixelSizeMicrons() { mpp }
}
