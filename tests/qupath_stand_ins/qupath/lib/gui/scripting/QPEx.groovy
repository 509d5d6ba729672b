package qupath.lib.gui.scripting

import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.viewer.overlays.Viewer

class QPEx extends QP {
    static QuPathGUI window
    static Viewer viewer

    static QuPathGUI getQuPath() { window }

    static Viewer getCurrentViewer() { viewer }
}
