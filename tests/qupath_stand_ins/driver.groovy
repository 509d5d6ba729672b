// Runs a script in scenes, each with an image and what QuPath knows, and writes what has become of it.
// Arguments: the script, the scenes as JSON, the file of the results.

import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import qupath.lib.gui.QuPathGUI
import qupath.lib.gui.scripting.QP
import qupath.lib.gui.scripting.QPEx
import qupath.lib.gui.viewer.overlays.Viewer
import qupath.lib.images.ImageData
import qupath.lib.images.servers.ImageServer
import qupath.lib.images.servers.ImageServerMetadata
import qupath.lib.images.servers.PixelCalibration
import qupath.lib.io.PathIO
import qupath.lib.objects.Hierarchy
import qupath.lib.objects.PathClass
import qupath.lib.objects.PathObject
import qupath.lib.projects.Project
import qupath.lib.projects.ProjectImageEntry

def script = new File(args[0]).getText("UTF-8")
def results = new JsonSlurper().parse(new File(args[1]), "UTF-8").collect { scene ->
    PathClass.known.clear()
    scene.colours.each { name, colour -> PathClass.getInstance(name, colour) }
    PathIO.sizes.clear()
    QP.updates = 0
    def hierarchy = new Hierarchy()
    scene.objects.each {
        hierarchy.objects << new PathObject(
            kind: it.kind, pathClass: it.label == null ? null : PathClass.getInstance(it.label, null), metadata: it.metadata)
    }
    def server = new ImageServer(
        width: scene.width, height: scene.height, uris: scene.uris.collect { new URI(it) },
        metadata: new ImageServerMetadata(name: scene.name), pixelCalibration: new PixelCalibration(mpp: scene.mpp))
    QP.imageData = scene.is_open ? new ImageData(server: server, hierarchy: hierarchy) : null
    QP.entry = scene.entry == null ? null :
        new ProjectImageEntry(imageName: scene.entry, originalImageName: scene.entry)
    def window = new QuPathGUI()
    def project = new Project()
    QP.project = scene.has_project ? project : null
    QPEx.window = scene.has_window ? window : null
    QPEx.viewer = new Viewer(imageData: scene.shows_another ? null : QP.imageData)
    def text = script
    scene.settings.each { name, value ->
        def changed = text.replaceFirst(/(?m)(@Field \w+ ${name} =) \S+/, "\$1 ${value}")
        assert changed != text
        text = changed
    }
    def said = new StringWriter()
    def binding = new Binding([args: scene.args as String[], out: new PrintWriter(said, true)])
    scene.times.times { new GroovyShell(this.class.classLoader, binding).evaluate(text, "load_segkit.groovy") }
    def overlay = QPEx.viewer.overlay
    def image = overlay == null ? null : overlay.regions.values()[0]
    [
        said: said.toString().readLines(),
        objects: hierarchy.objects.collect {
            [
                kind: it.kind, label: it.pathClass?.name, metadata: it.metadata, measurements: it.measurements,
                locked: it.locked, geometry: it.roi?.geometry,
            ]
        },
        added: hierarchy.added,
        read: PathIO.sizes.collect(),
        updates: QP.updates,
        colours: PathClass.known.collectEntries { name, one -> [(name): one.colour] },
        available: window.availablePathClasses*.name,
        in_project: project.classes*.name,
        is_synced: project.isSynced,
        place: overlay == null ? null : overlay.regions.keySet()[0].numbers,
        pixels: image == null ? null :
            (0..<image.height).collect { y -> (0..<image.width).collect { x -> image.getRGB(x, y) } },
        is_shown: QPEx.viewer.shows && QPEx.viewer.repainted,
    ]
}
new File(args[2]).setText(JsonOutput.toJson(results), "UTF-8")
