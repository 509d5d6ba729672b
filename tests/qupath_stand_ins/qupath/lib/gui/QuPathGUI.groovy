package qupath.lib.gui

import qupath.lib.objects.PathClass

class QuPathGUI {
    List<PathClass> availablePathClasses = []
}
