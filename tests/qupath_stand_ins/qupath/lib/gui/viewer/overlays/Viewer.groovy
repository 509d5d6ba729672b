package qupath.lib.gui.viewer.overlays

/** QuPathViewer, and its OverlayOptions. */
class Viewer {
    def imageData
    BufferedImageOverlay overlay
    boolean shows
    boolean repainted

    Viewer getOverlayOptions() { this }

    void setShowPixelClassification(boolean shows) { this.shows = shows }

    void setCustomPixelLayerOverlay(BufferedImageOverlay overlay) { this.overlay = overlay }

    void repaint() { repainted = true }
}
