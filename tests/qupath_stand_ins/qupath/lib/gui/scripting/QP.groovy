package qupath.lib.gui.scripting

import qupath.lib.images.ImageData
import qupath.lib.objects.Hierarchy
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry

class QP {
    static ImageData imageData
    static Project project
    static ProjectImageEntry entry
    static int updates = 0

    static ImageData getCurrentImageData() { imageData }

    static Project getProject() { project }

    static ProjectImageEntry getProjectEntry() { entry }

    static void fireHierarchyUpdate(Hierarchy hierarchy) { updates++ }
}
